"""resharp: restore and upscale pictures with the Real-ESRGAN family, tiled, on any machine."""

__version__ = "0.1.0"

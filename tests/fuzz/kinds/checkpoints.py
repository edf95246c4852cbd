"""Checkpoints in every format that can be read, for ``resharp models import`` and others."""

from __future__ import annotations

import io
import json
import struct
from random import Random

from tests.fuzz.layouts import structure
from tests.fuzz.mutators import anywhere, mutated, mutated_json
from tests.fuzz.trials import Material, Trial


class Checkpoints:
    """One mutated checkpoint of a tiny network."""

    name = "checkpoints"
    share = 1.0

    def material(self) -> Material:
        """Return a network in zip, legacy pickle and safetensors, wrapped in several ways."""
        import torch
        from safetensors.torch import save

        from resharp.models.archs.rrdbnet import RRDBNet
        from resharp.models.archs.srvgg import SRVGGNetCompact

        torch.manual_seed(5)
        compact = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2).state_dict()
        large = RRDBNet(num_feat=4, num_block=1, num_grow_ch=2, scale=4).state_dict()
        found = {"plain.safetensors": save(compact, metadata={"note": "x"})}
        for name, content, zipped in (
            ("params.pth", {"params": compact}, True),
            ("ema.pth", {"params_ema": large, "params": large, "step": 7}, True),
            ("plain.pth", dict(compact), True),
            ("legacy.pth", {"params": compact}, False),
            ("legacy_plain.pth", dict(large), False),
        ):
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=zipped)
            found[name] = out.getvalue()
        return found

    def trial(self, random: Random, material: Material) -> Trial:
        """Import a mutated checkpoint, or ask for a graph of it with facts that cannot be true."""
        name, other = random.choice(list(material)), random.choice(list(material))
        data = material[name]
        if name.endswith(".safetensors"):
            changed = _safetensors(random, data)
        elif random.random() < 0.35:
            changed = _pickle(random, data)
        else:
            changed = mutated(random, data, material[other], *structure(data))
        file = f"in.{name.rpartition('.')[2]}"
        return Trial(
            files={file: changed},
            command=("models", "import", file, "--name", "mine", "--weights-dir", "out"),
            named=file,
            output="out",
        )


def _safetensors(random: Random, data: bytes) -> bytes:
    """Change the header as JSON, its length, or any bytes."""
    (length,) = struct.unpack_from("<Q", data)
    how = random.random()
    if how < 0.6:
        header = mutated_json(random, data[8 : 8 + length])
        size = len(header) if random.random() < 0.9 else random.randrange(1 << 40)
        return struct.pack("<Q", size) + header + data[8 + length :]
    if how < 0.75:
        extra = {"extra": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
        header = json.dumps({**json.loads(data[8 : 8 + length]), **extra}).encode()
        return struct.pack("<Q", len(header)) + header + data[8 + length :]
    return anywhere(random, data)


def _pickle(random: Random, data: bytes) -> bytes:
    """Change numbers and opcodes of the pickle inside, of the same length so that all else fits."""
    start = max(data.find(b"\x80\x02}"), 0)
    end = data.find(b"PK\x03\x04", start)
    end = min(end if end > 0 else len(data), start + 4000)
    changed = bytearray(data)
    for _ in range(random.choice((1, 2, 5))):
        at = random.randrange(start, max(end, start + 1))
        kinds = b"KMJ\x85\x86\x87tR.}])(NQcbhqUX"
        found = [n for n in range(at, min(end, at + 200)) if changed[n] in b"KMJ"]
        if found and random.random() < 0.6:
            width = {75: 1, 77: 2, 74: 4}[changed[found[0]]]
            value = random.choice((b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\1\0\0\0"))
            changed[found[0] + 1 : found[0] + 1 + width] = value[:width]
        else:
            changed[at] = random.choice(kinds)
    mend = structure(data)[1]
    return mend(bytes(changed)) if mend else bytes(changed)

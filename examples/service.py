"""A restoration service in twenty lines: POST an image and receive the restored PNG.

``python examples/service.py``, then ``curl --data-binary @photo.jpg localhost:8000 -o large.png``.
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from resharp import ResharpError, Upscaler
from resharp.images import decode, encode

upscaler = Upscaler()  # one for all requests: it may be called from several threads


class Handler(BaseHTTPRequestHandler):
    """Restores what is posted."""

    def do_POST(self) -> None:  # the name that http.server calls
        """Answer with the restored image, or with the error as text."""
        try:
            image = decode(self.rfile.read(int(self.headers["Content-Length"])), "the request")
            data, _ = encode(upscaler(image.pixels), image.metadata, format="png")
            status, kind = 200, "image/png"
        except ResharpError as error:
            data, status, kind = f"{error.code}: {error}\n".encode(), 400, "text/plain"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()

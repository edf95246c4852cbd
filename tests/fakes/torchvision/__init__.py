"""Three names of torchvision, all that spandrel takes to be imported: see ``tests/oracle.py``.

torchvision is made for one torch each, and pip would bring another torch with it.
"""

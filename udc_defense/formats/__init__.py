"""One file a format: the bytes of a stranger's file to numbers, sizes checked before anything is decoded.

Whatever a file holds that is not understood is refused by an `ImageError` whose sentence lacks the file's name only:
the callers, `images.py` and `scenes.py`, put that in front.
"""

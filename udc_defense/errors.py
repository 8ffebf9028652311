"""The exceptions that a user can meet. Each message is one sentence that carries the offending value."""


class UDCDefenseError(Exception):
    """Base of every error that is the input's fault and not the program's."""


class ImageError(UDCDefenseError):
    """An image that cannot be read, is too large, or is not an image."""


class OutputError(UDCDefenseError):
    """A file or folder that cannot be written, or that another process writes."""


class SceneError(UDCDefenseError):
    """A scene folder, crop list or paired folder that cannot be used."""


class CheckpointError(UDCDefenseError):
    """A checkpoint that is missing, damaged or of another kind than asked for."""


class SettingError(UDCDefenseError, ValueError):
    """A parameter outside its range or a name that is not registered."""


class PanelError(UDCDefenseError):
    """A panel, a point spread function, a layout or the photos of a calibration that cannot be used."""

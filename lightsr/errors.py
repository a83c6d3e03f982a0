"""The one exception that means "your input, not our bug"."""


class InputError(ValueError):
    """Bad input, told in one line: what was got, what is accepted, what to do. The CLI prints it and exits with 1.

    Whatever is not printable (a line break or a terminal's escape code in a file name) is written as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(each if each.isprintable() else ascii(each)[1:-1] for each in message))

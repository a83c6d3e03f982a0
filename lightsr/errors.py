"""The one exception that means "your input, not our bug"."""


class InputError(ValueError):
    """Bad input, told in one line: what was got, what is accepted, what to do. The CLI prints it and exits with 1."""

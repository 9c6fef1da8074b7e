"""The dead-man switch: a button or a heartbeat that a person keeps up, and without which nothing moves."""

SECOND = 1_000_000_000


class DeadMan:
    """Whether the switch on ``topic`` is pressed; "" means that none is needed.

    Times are integer nanoseconds of real time: a person's hand does not follow a simulated clock.
    """

    def __init__(self, topic: str = "", timeout: float = 0.5):
        self.topic, self.timeout = topic, timeout  # timeout: seconds
        self.reset()

    def reset(self) -> None:
        """Wait for a message again."""
        self._heard: int | None = None  # when the newest message came
        self._pressed = self._let_go = False
        self._problem = ""

    def heard(self, steady: int, pressed: bool, problem: str = "") -> None:
        """Take a message: whether the switch is pressed, and why that cannot be told where it cannot.

        A release counts for the next control step, also if the switch is pressed again before that.
        """
        self._heard, self._pressed, self._problem = steady, pressed and not problem, problem
        self._let_go = self._let_go or not self._pressed

    def problem(self, steady: int) -> str:
        """Return why the robot must stand still in the control step that begins now, or ""."""
        let_go, self._let_go = self._let_go, False
        if not self.topic:
            return ""
        if self._heard is None:
            return f"no message on {self.topic} yet: commands need a pressed dead-man switch"
        if not 0 <= steady - self._heard <= self.timeout * SECOND:
            return f"no message on {self.topic} for {self.timeout:g} s: the dead-man switch is lost"
        if self._problem:
            return f"{self.topic} shows no dead-man switch: {self._problem}"
        if not self._pressed:
            return f"the dead-man switch on {self.topic} is not pressed"
        return f"the dead-man switch on {self.topic} was released" if let_go else ""


def button_pressed(buttons, button: int) -> tuple[bool, str]:
    """Return whether a button of a joystick is pressed, and why that cannot be told, or ""."""
    if button < len(buttons):
        return bool(buttons[button]), ""
    return False, f"it has {len(buttons)} buttons, dead_man.button is {button} (counted from 0)"

"""bcd: blood-smear classifiers, and the evidence whether their accuracy can be believed."""

from bcd.config.environment import send_nothing

__version__ = "0.1.0"

send_nothing()  # before any module of bcd imports a library that would

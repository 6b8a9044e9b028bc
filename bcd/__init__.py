"""bcd: blood-smear classifiers, and the evidence whether their accuracy can be believed."""

__version__ = "0.1.0"

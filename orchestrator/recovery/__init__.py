"""Going on by itself: what is decided when an attempt has ended, and the attempt that follows."""

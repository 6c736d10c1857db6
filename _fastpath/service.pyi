"""The thread that takes a controller's requests to Python and their answers back."""

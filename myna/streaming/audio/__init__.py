"""Audio in every format the server takes → int16 at 16 kHz for each channel."""

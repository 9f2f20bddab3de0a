"""The gateway as a service of a machine of its own: installed, taken away, and upgraded with a way back."""

"""Backing up a gateway's directory while it runs, and putting it back."""

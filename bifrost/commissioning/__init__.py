"""Commissioning at the edge: reading a tag list, reading the sources, writing the sign-off report."""

"""Checkpoints that are whole or absent: how they are written, checked, found again and read under another strategy."""

"""Reading what runs wrote, and drawing it: the curves of one run, and several runs compared. Knows files, not Lightning."""

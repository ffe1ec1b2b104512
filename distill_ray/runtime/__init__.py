"""What runs need of the machine: Ray, artifacts, progress."""

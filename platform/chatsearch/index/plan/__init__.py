"""What a gallery is going to take before it is built: bytes, machines, hours and money, with error bands and sources."""

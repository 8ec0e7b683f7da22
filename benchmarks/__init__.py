"""The measurements quoted in the documentation. Each module is one and runs by itself."""

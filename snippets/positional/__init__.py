"""How a network that sees a set learns about order."""

"""Small experiments that find out what holds the learning back; each prints JSON and is run by itself."""

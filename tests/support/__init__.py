"""What the functional tests stand on: a pool, a mount, a proxy that misbehaves."""

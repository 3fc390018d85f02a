"""Requests exactly as others' clients send them, and the pool that the tests of acapool send them to."""

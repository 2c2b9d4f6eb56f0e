"""Test certificates, made fresh on every machine."""

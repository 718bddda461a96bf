"""Genprint by the name that people type and import: the command ``genprint``.

Thin, and above all parts: see ``docs/architecture.md``.
"""

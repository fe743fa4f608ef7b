"""Hooks: how one is called, waited for, and driven as a coroutine."""

"""Supervisors: specs, strategies, budgets, and the app that holds a tree of them."""

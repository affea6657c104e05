"""Gymnasium environments whose reward depends on a task."""

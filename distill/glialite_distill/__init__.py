"""Cohorts, teachers, soft labels and students: everything that trains."""

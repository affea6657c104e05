"""What benches time beside what is measured, and how."""

"""The proofs of docs/reliability.md: real kills, damaged files, full disks, no network; resumable, in slices."""

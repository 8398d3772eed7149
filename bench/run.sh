#!/bin/sh
# All benchmarks, as `make bench` runs them: the student and its bundle are made first, once; then everything is measured.
set -eu
BIN=${BIN:-.venv/bin}
WORK=${WORK:-bench/work}
SPACE="$WORK/workspace"
STUDENT=${STUDENT:-$SPACE/students/S/student.pt}
BUNDLE=${BUNDLE:-$WORK/bundle}

say() { printf '\n== %s\n' "$1" >&2; }

say "1/6  Phantoms of 240×240×155 voxels: 36 patients to learn from, 24 and 24 of another world to judge on"
"$BIN/distill" phantoms --out "$WORK/cohort" --patients 36 --seed 1
"$BIN/distill" phantoms --out "$WORK/held-out" --patients 24 --seed 1001 --world shifted
"$BIN/distill" phantoms --out "$WORK/unseen" --patients 24 --seed 2001

say "2/6  Student S on the truth of the phantoms, and its bundle"
"$BIN/teacher-train" prepare --cohort "$WORK/cohort" --workspace "$SPACE" --plan full --folds 5
"$BIN/distill" train --workspace "$SPACE" --student S --iterations 1600 --patch 64,64,48 --soft-weight 0
"$BIN/edge-export" build --student "$STUDENT" --workspace "$SPACE" --out "$BUNDLE"

say "3/6  Shapes of students (those in bench/results/student_shapes.json are timed again, not trained again)"
"$BIN/python" bench/student_shapes.py --workspace "$SPACE"

say "4/6  What INT8 costs in Dice"
"$BIN/python" bench/accuracy.py --bundle "$BUNDLE" --student "$STUDENT" --cases "$WORK/unseen" "$WORK/held-out"

say "5/6  Speed, side by side"
"$BIN/python" bench/speed.py --bundle "$BUNDLE" --student "$STUDENT" --cases "$WORK/held-out" --workspace "$SPACE" --work "$WORK"

say "6/6  docs/benchmarks.md"
"$BIN/python" bench/tables.py

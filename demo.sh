#!/bin/sh
# The whole chain on synthetic patients, as its users type it: `make demo`. Interrupt it anywhere and run it again.
set -eu
BIN=${BIN:-.venv/bin}
DEMO=${DEMO:-demo}
RECIPES=baseline,grokking,mednext-b

say() { printf '\n== %s\n' "$1" >&2; }

say "1/9  Synthetic patients: 24 to learn from, 6 that nobody trains on"
"$BIN/distill" phantoms --out "$DEMO/cohort" --patients "${PATIENTS:-24}" --seed 1 --small
"$BIN/distill" phantoms --out "$DEMO/unseen" --patients "${UNSEEN:-6}" --seed 1001 --small

say "2/9  nnU-Net: fingerprint, plan, preprocessing, folds by patient"
"$BIN/teacher-train" prepare --cohort "$DEMO/cohort" --workspace "$DEMO/workspace" --plan small --folds 2

say "3/9  Teachers: three recipes × two folds, a few epochs each"
"$BIN/teacher-train" run --workspace "$DEMO/workspace" --recipe "$RECIPES" --fold all --epochs "${EPOCHS:-10}" --iterations 12

say "4/9  Soft labels: every case by the teachers that never saw it"
"$BIN/distill" soft-labels --workspace "$DEMO/workspace" --members "$RECIPES"

say "5/9  Student"
"$BIN/distill" train --workspace "$DEMO/workspace" --student S --iterations "${STUDENT_ITERATIONS:-800}" --patch 48,64,48

say "6/9  Export: ONNX, exact 2-D lowering, INT8, a parity gate after each hop, one bundle"
"$BIN/edge-export" build --student "$DEMO/workspace/students/S/student.pt" --workspace "$DEMO/workspace" --out "$DEMO/bundle"

say "7/9  The clinic: INT8 on the processor, report included"
"$BIN/glialite" selftest --bundle "$DEMO/bundle"
"$BIN/glialite" batch "$DEMO/unseen" --out "$DEMO/clinic" --bundle "$DEMO/bundle"

say "8/9  The teacher ensemble on the same patients"
"$BIN/teacher-train" ensemble --workspace "$DEMO/workspace" --members "$RECIPES" --input "$DEMO/unseen" --out "$DEMO/teachers"

say "9/9  Against the truth (Dice)"
"$BIN/distill" evaluate --workspace "$DEMO/workspace" --cohort "$DEMO/unseen" \
    --compare "teacher ensemble=$DEMO/teachers" --compare "student S (INT8)=$DEMO/clinic" --csv "$DEMO/dice.csv"

say "Open these in a browser:"
ls "$DEMO"/clinic/*/*-report.html

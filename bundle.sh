#!/bin/sh
# The bundle that ships, from seeds alone: `make bundle`. Interrupt it anywhere and run it again.
# No patient's data goes in; a quarter of the training patches lack sequences, so that scans may.
set -eu
BIN=${BIN:-.venv/bin}
WORK=${BUNDLE_WORK:-bundle-work}
STUDENT=$WORK/workspace/students/shipped/student.pt

say() { printf '\n== %s\n' "$1" >&2; }

say "1/5  Synthetic patients of a wide world to learn from, of other hospitals to decide and to measure errors on; 20 to judge it"
"$BIN/distill" phantoms --out "$WORK/cohort" --patients "${PATIENTS:-450}" --seed 31 --small --world wide
"$BIN/distill" phantoms --out "$WORK/shifted" --patients "${SHIFTED:-24}" --seed 34 --small --world shifted
"$BIN/distill" phantoms --out "$WORK/held-out" --patients "${HELD_OUT:-40}" --seed 32 --small --world other
"$BIN/distill" phantoms --out "$WORK/unseen" --patients "${UNSEEN:-20}" --seed 33 --small --world other

say "2/5  nnU-Net: fingerprint, plan, preprocessing; a tenth of the patients validates"
"$BIN/teacher-train" prepare --cohort "$WORK/cohort" --workspace "$WORK/workspace" --plan small --folds 10

say "3/5  Student S"
"$BIN/distill" train --workspace "$WORK/workspace" --student S --name shipped --soft-weight 0 --dropout 0.25 \
    --patch 64,80,64 --iterations "${ITERATIONS:-5000}" --decide-on "$WORK/shifted"

say "4/5  Export: INT8, a parity gate after each hop, one bundle"
"$BIN/edge-export" build --student "$STUDENT" --workspace "$WORK/workspace" --out "$WORK/bundle"

say "5/5  Temperatures and volume intervals into the bundle; how good it is"
"$BIN/distill" evaluate --workspace "$WORK/workspace" --cohort "$WORK/unseen" --fit-on "$WORK/held-out" \
    --bundle "$WORK/bundle" --subsets --csv "$WORK/unseen.csv"
"$BIN/edge-export" build --student "$STUDENT" --workspace "$WORK/workspace" --out "$WORK/bundle" \
    --reliability "$WORK/unseen.json"
"$BIN/edge-export" verify "$WORK/bundle"

say "Done: $WORK/bundle. It ships as runtime/glialite_runtime/default_bundle"

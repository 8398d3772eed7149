#!/bin/sh
# The bundle that ships, from seeds alone: `make bundle`. Interrupt it anywhere and run it again.
# No patient's data goes in: a large student learns from synthetic patients, a small one from both.
set -eu
BIN=${BIN:-.venv/bin}
WORK=${BUNDLE_WORK:-bundle-work}
DROPOUT=0.25
PATCH=64,80,64

say() { printf '\n== %s\n' "$1" >&2; }

say "1/6  Synthetic patients of a wide world to learn from, of another hospital to calibrate on"
"$BIN/distill" phantoms --out "$WORK/cohort" --patients "${PATIENTS:-300}" --seed 31 --small --world wide
"$BIN/distill" phantoms --out "$WORK/held-out" --patients "${HELD_OUT:-24}" --seed 32 --small --world other

say "2/6  nnU-Net: fingerprint, plan, preprocessing; a tenth of the patients validates"
"$BIN/teacher-train" prepare --cohort "$WORK/cohort" --workspace "$WORK/workspace" --plan small --folds 10

say "3/6  The large student"
"$BIN/distill" train --workspace "$WORK/workspace" --student M --name large --soft-weight 0 \
    --dropout "$DROPOUT" --patch "$PATCH" --iterations "${LARGE_ITERATIONS:-4000}"

say "4/6  The small one, from the truth and from the large one"
"$BIN/distill" train --workspace "$WORK/workspace" --student S --name shipped --soft-weight 0 \
    --assistant "$WORK/workspace/students/large/student.pt" \
    --dropout "$DROPOUT" --patch "$PATCH" --iterations "${SMALL_ITERATIONS:-8000}"

say "5/6  Temperatures and volume intervals, on patients that it never saw"
"$BIN/distill" evaluate --workspace "$WORK/workspace" --cohort "$WORK/held-out" --fit-on "$WORK/held-out" \
    --student "$WORK/workspace/students/shipped/student.pt" --csv "$WORK/held-out.csv"

say "6/6  Export: INT8, a parity gate after each hop, one bundle"
"$BIN/edge-export" build --student "$WORK/workspace/students/shipped/student.pt" --workspace "$WORK/workspace" \
    --out "$WORK/bundle"
"$BIN/edge-export" verify "$WORK/bundle"

say "Done: $WORK/bundle. To ship it: cp -r $WORK/bundle runtime/glialite_runtime/default_bundle"

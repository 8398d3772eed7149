#!/bin/sh
# The bundle that ships, from seeds alone: `make bundle`. Interrupt it anywhere and run it again.
# No patient's data goes in; a quarter of the training patches lack sequences, so that scans may.
# Where there is a GPU, more of everything: TEACHER=20000 trains a student M first, which S then learns from as well.
set -eu
BIN=${BIN:-.venv/bin}
WORK=${BUNDLE_WORK:-bundle-work}
COARSE=$WORK/workspace-2mm
FINE=$WORK/workspace
STUDENT=$FINE/students/shipped/student.pt

say() { printf '\n== %s\n' "$1" >&2; }
phantoms() { "$BIN/distill" phantoms "$@"; }
train() { "$BIN/distill" train --soft-weight 0 --dropout 0.25 "$@"; }

say "1/6  Synthetic patients of a wide world at 2 mm, more at 1.5 mm; others to decide, to measure errors and to judge on"
phantoms --out "$WORK/cohort-2mm" --patients "${PATIENTS:-450}" --seed 31 --spacing 2 --world wide
phantoms --out "$WORK/cohort" --patients "${FINE_PATIENTS:-300}" --seed 35 --spacing 1.5 --world wide
phantoms --out "$WORK/elsewhere" --patients "${ELSEWHERE:-30}" --seed 34 --spacing 1.5 --world other
phantoms --out "$WORK/shifted" --patients "${SHIFTED:-20}" --seed 36 --spacing 1.5 --world shifted
phantoms --out "$WORK/held-out" --patients "${HELD_OUT:-40}" --seed 32 --spacing 1.5 --world other
phantoms --out "$WORK/unseen" --patients "${UNSEEN:-20}" --seed 33 --spacing 1.5 --world other

say "2/6  nnU-Net: fingerprint, plan, preprocessing; a tenth of the patients validates"
"$BIN/teacher-train" prepare --cohort "$WORK/cohort-2mm" --workspace "$COARSE" --plan small --folds 10
"$BIN/teacher-train" prepare --cohort "$WORK/cohort" --workspace "$FINE" --plan medium --folds 10

say "3/6  Student S at 2 mm"
set --
if [ "${TEACHER:-0}" -gt 0 ]; then
    train --workspace "$COARSE" --student M --name teacher --patch 64,80,64 --iterations "$TEACHER"
    set -- --assistant "$COARSE/students/teacher/student.pt"
fi
train --workspace "$COARSE" --student S --name coarse --patch 64,80,64 --iterations "${ITERATIONS:-5000}" "$@"

say "4/6  The same student goes on at 1.5 mm; patients shown smaller than life, because real tumours are finer"
train --workspace "$FINE" --student S --init "$COARSE/students/coarse/student.pt" --name shipped --patch 64,80,64 \
    --shrink 0.62 --iterations "${FINE_ITERATIONS:-2000}" --learning-rate 5e-4 \
    --decide-on "$WORK/elsewhere" --decide-on "$WORK/shifted"

say "5/6  Export: INT8, a parity gate after each hop, one bundle"
"$BIN/edge-export" build --student "$STUDENT" --workspace "$FINE" --out "$WORK/bundle"

say "6/6  Temperatures and volume intervals into the bundle; how good it is"
"$BIN/distill" evaluate --workspace "$FINE" --cohort "$WORK/unseen" --fit-on "$WORK/held-out" \
    --bundle "$WORK/bundle" --subsets --csv "$WORK/unseen.csv"
"$BIN/edge-export" build --student "$STUDENT" --workspace "$FINE" --out "$WORK/bundle" --reliability "$WORK/unseen.json"
"$BIN/edge-export" verify "$WORK/bundle"

say "Done: $WORK/bundle. It ships as runtime/glialite_runtime/default_bundle"

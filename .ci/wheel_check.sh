#!/usr/bin/env bash
# Builds the wheel, installs it with its dependencies in an empty environment, and uses it outside of the repository:
# grade, fit with the transformers engine, compare, the main names. Leaves everything in build/wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
place=$PWD/build/wheel
rm -rf "$place" && mkdir -p "$place/work"
"$python" -m build --wheel --outdir "$place" . > "$place/build.log" 2>&1 || { tail -20 "$place/build.log"; exit 1; }
"$python" -m venv "$place/env"
# A build of torch at hand (CPU) comes first; the wheel then brings the rest of what it needs.
"$place/env/bin/pip" install --quiet --disable-pip-version-check "${TORCH:-torch==2.13.0}"
"$place/env/bin/pip" install --quiet --disable-pip-version-check "$place"/*.whl
cd "$place/work"
export OMP_NUM_THREADS=1 PYTHONPATH=
aer=$place/env/bin/aer-lightning
echo '{"id": 1, "gold": "1/2", "prediction": "\\boxed{0.5}"}' > answers.jsonl
"$aer" grade answers.jsonl | grep -q '"outcome": "correct"'
for seed in 1 2; do
  "$aer" fit -c configs/aer.yaml --run_dir "run$seed" --seed_everything "$seed" --trainer.accelerator cpu --trainer.max_epochs 1 \
    --data.init_args.engine TransformersEngine --data.init_args.rollouts_per_epoch 2 --data.init_args.eval_samples 8 > "fit$seed.log" 2>&1 \
    || { tail -20 "fit$seed.log"; exit 1; }
done
"$aer" compare run1 run2 --out report > compare.log
"$place/env/bin/python" -c "import aer_lightning as a; print(a.__version__, [getattr(a, n).__name__ for n in a.__all__][:3])"
test -s report/report.html && test -s run1/curves.png && test -s run1/model/model.safetensors
echo "the wheel works in an empty environment: $(ls "$place"/*.whl | xargs -n1 basename)"

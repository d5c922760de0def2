# source this in a shell at the root of the checkout: the environment that demo.py made, with the sources on the path
root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)
export PATH="$root/.venv/bin:$PATH" HF_HUB_OFFLINE=1
PYTHONPATH="$root"
for name in dynshape primops dynamo aotgrad inductor lamina; do PYTHONPATH="$PYTHONPATH:$root/packages/$name/src"; done
export PYTHONPATH

#!/usr/bin/env bash
# Unpack an arm64 Python with the three runtimes, and a qemu that runs it, into FOLDER: tests/arm64/root.sh FOLDER
# Needs Debian's apt, dpkg and keys, and pip; no root rights, and the system's own packages stay as they are.
set -euo pipefail
folder=$(realpath -m "$1")
if test -e "$folder/ready"; then exit 0; fi
mkdir -p "$folder"/{apt/lists/partial,apt/archives/partial,debs,root}
touch "$folder/apt/status"
for suite in bookworm bookworm-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
done > "$folder/apt/sources.list"

# Packages of one architecture, by an apt of its own.
fetch() {
    local architecture=$1
    shift
    local options=(
        -qq -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" -o Acquire::Languages=none
        -o "Dir::State=$folder/apt" -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt"
        -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=
    )
    apt-get "${options[@]}" update
    (cd "$folder/debs" && apt-get "${options[@]}" download "$@")
}

# qemu 7.2, which bookworm itself has, crashes ONNX Runtime and LiteRT.
fetch "$(dpkg --print-architecture)" qemu-user/bookworm-backports
dpkg --fsys-tarfile "$folder"/debs/qemu-user_*.deb | tar -x -C "$folder" --strip-components=3 ./usr/bin/qemu-aarch64
fetch arm64 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 libgomp1 \
    zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5
for deb in "$folder"/debs/*_arm64.deb; do dpkg -x "$deb" "$folder/root"; done

# pip picks the wheels and unpacks them; nothing of them is run.
wheels() {
    local place=$1
    shift
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --target "$folder/$place" --python-version 3.11 --implementation cp --abi cp311 \
        --platform manylinux_2_34_aarch64 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 --platform any "$@"
}
versions=$(dirname "$0")/../../constraints.txt
wheels modern -c "$versions" numpy onnxruntime ai-edge-litert protobuf flatbuffers packaging
wheels old 'numpy<2' 'tflite-runtime==2.14.0'
rm -r "$folder"/apt "$folder"/debs
touch "$folder/ready"

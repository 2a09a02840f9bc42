# Unpacks a package of another Debian release, and all that it depends on down to its own C
# library, into a folder: fetch.sh RELEASE PACKAGE FOLDER. Needs no root, and leaves the machine's
# package manager alone. The folder appears only when it is complete.

release=$1 package=$2 folder=$3

# Standard output is for what the user asked for.
exec >&2

# One of several runners fetches, and the others wait for it. What an interrupted one left is
# cleared away by the next.
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
[ ! -e "$folder" ] || exit 0
new=$folder.new
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT TERM HUP

# The machine's own mirror.
mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)
if [ -z "$mirror" ]; then
    echo "apt knows no Debian mirror on this machine"
    exit 100
fi

# The database of installed packages is empty, so that every dependency is fetched too. An old
# release's lists are no longer renewed: they count as they are, signed.
apt=$new/apt root=$new/root
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
: >"$apt/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] $mirror $release main" >"$apt/sources.list"
fetch() {
    apt-get -y -qq --no-install-recommends \
        -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o Acquire::Check-Valid-Until=false \
        -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}
fetch update
fetch --download-only install "$package"
for archive in "$apt"/cache/archives/*.deb; do
    dpkg --fsys-tarfile "$archive" | tar -x -C "$root" --no-same-owner --keep-directory-symlink
done
chmod 755 "$root"
mv "$root" "$folder"

# The keeper of one sandbox, started by sandbox/keeper.py and living as long as the sandbox: it holds
# a mount namespace with the sandbox's disk and sources, and it outlives its owner, by a moment.
#
#   keeper.sh FOLDER PYTHON REAPER [SECONDS]
#
# Standard input says `go` once the folder is there, with FOLDER/fstab for what is to be mounted, if
# anything is; `ready` is the answer. When standard input ends, the owner is gone, however that
# came: what it left is removed. Every process of the sandbox ends after SECONDS, whatever the owner
# does or does not.
folder=$1 python=$2 reaper=$3 seconds=$4
trap '' PIPE INT TERM HUP # the owner may be gone before it hears us

read -r go
if [ "$go" ]; then
    if [ ! -e "$folder/fstab" ] || mount --all --fstab "$folder/fstab"; then
        echo ready
    fi
fi
exec >&- 2>&-
if [ "$seconds" ]; then
    (
        exec <&-
        sleep "$seconds"
        exec "$python" -I -S "$reaper" "$folder" "$$" # the shell's own pid, not the subshell's
    ) &
fi
read -r _
exec "$python" -I -S "$reaper" "$folder"

# shellcheck shell=bash
# What the tuning scripts share: show first, change only with --apply, put back with --undo.
#
# A script calls `options` with its arguments, then `change FILE VALUE WHY MEASURE` for each setting, then
# `finish`. Old values are kept in a state file until they are put back.

# Another root for /proc and /sys, so that the scripts can be tried on a copy.
root=${RINGCAST_TUNING_ROOT:-}
mode=show
state=
positional=()
differing=0

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# Reads --apply, --undo and --state FILE; everything else is kept in `positional`.
options() {
  state=$root/var/lib/ringcast-tuning/${0##*/}.state
  while [ $# -gt 0 ]; do
    case $1 in
      --apply) mode=apply ;;
      --undo) mode=undo ;;
      --state)
        [ $# -gt 1 ] || die "--state wants a file"
        state=$2
        shift
        ;;
      --help | -h)
        usage
        exit 0
        ;;
      -*) die "unknown option $1; see --help" ;;
      *) positional+=("$1") ;;
    esac
    shift
  done
  if [ "$mode" = undo ]; then
    undo
    exit 0
  fi
}

# Puts every old value back, the last change first.
undo() {
  [ -f "$state" ] || die "nothing to undo: there is no $state"
  local file old failed=0
  while IFS=$'\t' read -r file old; do
    echo "$file: $(cat "$root$file" 2>/dev/null) -> $old"
    echo "$old" >"$root$file" || failed=1
  done < <(tac "$state")
  [ "$failed" = 0 ] || die "some values were refused; $state is kept"
  rm -f "$state"
}

# change FILE VALUE WHY MEASURE
change() {
  local file=$1 value=$2 why=$3 measure=$4 old
  if [ ! -e "$root$file" ]; then
    echo "$file is not here: nothing to set"
    return 0
  fi
  old=$(cat "$root$file" 2>/dev/null) || {
    echo "$file cannot be read: left alone"
    return 0
  }
  if same "$old" "$value"; then
    echo "$file: $old, as it should be"
    return 0
  fi
  differing=$((differing + 1))
  echo "$file: $old -> $value"
  echo "    why: $why"
  echo "    see: $measure"
  [ "$mode" = apply ] || return 0
  mkdir -p "$(dirname "$state")"
  # What was there before the first change is what --undo brings back.
  if ! grep -qsF "$file"$'\t' "$state"; then
    printf '%s\t%s\n' "$file" "$old" >>"$state"
  fi
  echo "$value" >"$root$file" || echo "    the kernel refuses it: left as it was"
}

# Whether two values are the same; masks may differ in leading zeros.
same() {
  [ "$1" = "$2" ] || [ "$(tr -d , <<<"$1" | sed 's/^0*//')" = "$(tr -d , <<<"$2" | sed 's/^0*//')" ]
}

finish() {
  if [ "$mode" = apply ]; then
    [ "$differing" = 0 ] || echo "changed: $differing; ${0##*/} --undo puts them back ($state)"
  elif [ "$differing" -gt 0 ]; then
    echo "nothing was changed; --apply does it"
  fi
}

# Numbers of a list such as 0,2-4, one a line.
cpus_of() {
  local part first last
  local -a parts
  IFS=, read -ra parts <<<"$1"
  for part in "${parts[@]}"; do
    first=${part%-*} last=${part#*-}
    [[ $first =~ ^[0-9]+$ && $last =~ ^[0-9]+$ && $first -le $last ]] || die "$1 is not a list like 0,2-4"
    seq "$first" "$last"
  done
}

# Numbers, one a line on standard input, as the kernel's mask: hexadecimal words of 32 bits.
mask() {
  local -A words=()
  local cpu word highest=0 text
  while read -r cpu; do
    word=$((cpu / 32))
    words[$word]=$((${words[$word]:-0} | 1 << (cpu % 32)))
    [ "$word" -gt "$highest" ] && highest=$word
  done
  text=$(printf '%x' "${words[$highest]:-0}")
  for ((word = highest - 1; word >= 0; word--)); do
    text+=,$(printf '%08x' "${words[$word]:-0}")
  done
  echo "$text"
}

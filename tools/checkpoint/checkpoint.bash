# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for checkpoint(1)

_checkpoint_names() {
  checkpoint list --json 2>/dev/null |
    grep -o '"name":"[^"]*"' | sed 's/^"name":"//; s/"$//'
}

# The processes of the user; for root everybody's but the kernel's.
_checkpoint_pids() {
  if ((EUID == 0)); then
    ps -N --ppid 2 -p 2 -o pid= 2>/dev/null
  else
    ps -u "$EUID" -o pid= 2>/dev/null
  fi
}

_checkpoint() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb='' word i
  local verbs='dump restore list show explain remove jobs monitor plugins check'
  local common='--json --no-progress --verbose --no-ask-password --help --version'
  COMPREPLY=()

  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    case ${COMP_WORDS[i - 1]} in
      -t | --timeout | -o | --option | -e | --external | --owner | -D | --directory) continue ;;
    esac
    if [[ $word != -* && $word != '=' && " $verbs " == *" $word "* ]]; then
      verb=$word
      break
    fi
  done

  case $prev in
    --owner) mapfile -t COMPREPLY < <(compgen -u -- "$cur"); return ;;
    -D | --directory) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    -t | --timeout | -o | --option | -e | --external) return ;;
  esac
  if [[ $cur == -* ]]; then
    case $verb in
      dump) common+=' --leave-running --stop --replace --durable --timeout --no-wait --shell-job --file-locks --tcp-established --tcp-close --skip-in-flight --directory --external --option' ;;
      restore) common+=' --no-wait --shell-job --tcp-established --tcp-close --directory --owner --external --option' ;;
      explain) common+=' --timeout --shell-job --file-locks --tcp-established --tcp-close --skip-in-flight --external --option' ;;
      list | jobs) common+=' --owner --all' ;;
      show | remove) common+=' --owner' ;;
      '') common+=' --leave-running --stop --replace --durable --timeout --no-wait --shell-job --file-locks --tcp-established --tcp-close --skip-in-flight --directory --owner --all --external --option' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$common" -- "$cur")
    return
  fi
  case $verb in
    '') mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur") ;;
    dump | explain) [[ $prev != "$verb" ]] || mapfile -t COMPREPLY < <(compgen -W "$(_checkpoint_pids)" -- "$cur") ;;
    restore | show | remove) mapfile -t COMPREPLY < <(compgen -W "$(_checkpoint_names)" -- "$cur") ;;
  esac
}

complete -F _checkpoint checkpoint

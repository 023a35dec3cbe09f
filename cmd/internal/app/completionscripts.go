package app

// The scripts know nothing of the commands: each hands the words of the line
// to the hidden command and passes on what it answers.

const bashCompletion = `# bash completion for etcd-rescue: source <(etcd-rescue completion bash)

_etcd_rescue() {
	local line word blank last before kind= tab=$'\t'
	local -a words=()
	# bash takes words apart at = and : as well, which the line shows.
	line=${COMP_LINE#*"${COMP_WORDS[0]}"}
	for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
		blank=${line%%[![:space:]]*}
		if [[ -n $blank || ${#words[@]} -eq 0 ]]; then
			words+=("$word")
		else
			words[${#words[@]}-1]+=$word
		fi
		line=${line#"$blank"}
		line=${line#"$word"}
	done
	# Only what stands behind the last = or : is replaced.
	last=${words[${#words[@]}-1]}
	before=${last%"$word"}
	[[ $word == [=:] ]] && before=$last
	COMPREPLY=()
	while IFS=$tab read -r word _; do
		if [[ -z $kind ]]; then
			kind=$word
		else
			COMPREPLY+=("${word#"$before"}")
		fi
	done < <("${COMP_WORDS[0]/#\~\//$HOME/}" __complete -- "${words[@]}" 2>/dev/null)
	case $kind in
	files) compopt -o default ;;
	directories) compopt -o dirnames ;;
	*) [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace ;;
	esac
	return 0
}

complete -F _etcd_rescue etcd-rescue
`

const zshCompletion = `#compdef etcd-rescue
# zsh completion for etcd-rescue: source <(etcd-rescue completion zsh)

_etcd-rescue() {
	local kind line word about
	local -a lines whole open
	lines=("${(@f)$(${(Q)~words[1]} __complete -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
	kind=$lines[1]
	case $kind in
	files)
		[[ $PREFIX == (-*|*-file)=* ]] && compset -P 1 '*='
		_files
		return
		;;
	directories)
		[[ $PREFIX == (-*|*-file)=* ]] && compset -P 1 '*='
		_files -/
		return
		;;
	esac
	for line in "${(@)lines[2,-1]}"; do
		word=${line%%$'\t'*}
		about=${line#*$'\t'}
		word=${word//:/\\:}${about:+:$about}
		if [[ ${line%%$'\t'*} == *[=/] ]]; then
			open+=("$word")
		else
			whole+=("$word")
		fi
	done
	_describe 'etcd-rescue' whole -- open -S ''
}

# As a file in $fpath this is the function itself; else it is loaded by source.
if [[ ${funcstack[1]} == _etcd-rescue ]]; then
	_etcd-rescue "$@"
else
	compdef _etcd-rescue etcd-rescue
fi
`

const fishCompletion = `# fish completion for etcd-rescue: etcd-rescue completion fish | source

function __etcd_rescue_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    set -l lines ($words[1] __complete -- $words[2..] "$last" 2>/dev/null)
    # A path that follows --flag= or jsonpath-file= is completed without it.
    set -l path (string replace -r -- '^(-[^=]*|[^=]*-file)=' '' "$last")
    set -l before (string sub -l (math (string length -- "$last") - (string length -- "$path")) -- "$last")
    switch "$lines[1]"
        case files
            for found in (__fish_complete_path "$path")
                printf '%s\n' $before$found
            end
        case directories
            for found in (__fish_complete_directories "$path" '')
                printf '%s\n' $before$found
            end
        case '*'
            printf '%s\n' $lines[2..]
    end
end

complete -c etcd-rescue -f -a '(__etcd_rescue_complete)'
`

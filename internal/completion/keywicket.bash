# Completion of keywicket's command line for bash. To use it in each new shell, add this line to ~/.bashrc:
#     source <(keywicket completion bash)
_keywicket() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <("${1/#\~\//$HOME/}" complete-words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o bashdefault -o default -F _keywicket keywicket

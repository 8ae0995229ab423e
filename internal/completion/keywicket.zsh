# Completion of keywicket's command line for zsh. To use it in each new shell, add this line to ~/.zshrc, after compinit:
#     source <(keywicket completion zsh)
_keywicket() {
    local -a found
    found=("${(@f)$(${~${(Q)words[1]}} complete-words -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n $found[1] ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
compdef _keywicket keywicket

# Completion of keywicket's command line for fish. To use it in each new shell, run this command once:
#     keywicket completion fish > ~/.config/fish/completions/keywicket.fish
function __keywicket_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    set -l found ($program complete-words -- $words "$current" 2>/dev/null)
    if set -q found[1]
        printf '%s\n' $found
    else
        __fish_complete_path "$current"
    end
end
complete -c keywicket -f -a '(__keywicket_complete)'

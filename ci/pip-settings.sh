# shellcheck shell=bash
# Sourced: tells uv what this machine tells pip (indexes, folders of wheels, certificates, patience).
# What is set for uv already stays as it is.

_pip_setting() { # NAME: from the environment (PIP_NAME), else from pip's configuration files, else nothing
    local variable="PIP_${1^^}"
    variable=${variable//-/_}
    if [ -n "${!variable:-}" ]; then
        echo "${!variable}"
    else
        # `pip config get` looks into one file of several; a value of several lines is listed with \n in it
        python3 -m pip config list 2>/dev/null | sed -n "s/^global\.$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g'
    fi
}

_tell_uv() { # UV_NAME VALUE
    if [ -z "${!1:-}" ] && [ -n "$2" ]; then export "$1=$2"; fi
}

_tell_uv UV_FIND_LINKS "$(_pip_setting find-links | xargs | tr " " ",")"
_tell_uv UV_DEFAULT_INDEX "$(_pip_setting index-url)"
_tell_uv UV_INDEX "$(_pip_setting extra-index-url)"
_tell_uv UV_INDEX_STRATEGY unsafe-best-match # pip asks all indexes alike
_tell_uv UV_HTTP_TIMEOUT "$(_pip_setting default-timeout)"
_tell_uv SSL_CERT_FILE "$(_pip_setting cert)"

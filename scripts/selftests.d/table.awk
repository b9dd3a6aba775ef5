# SPDX-License-Identifier: GPL-2.0
#
# The table of scripts/selftests, as text or as JSON, and the count at its end. Reads what is out of
# scope ("NAME<tab>REASON") and what was to run ("NAME CPUS SECONDS ..."), and each module's results
# from DIR/MODULE.results ("NAME<tab>RESULT<tab>SECONDS<tab>REASON"). Fails if a test has.

BEGIN {
    count = split(modules, module, " ")
    for (m = 1; m <= count; m++) {
        file = dir "/" module[m] ".results"
        while ((getline line < file) > 0) {
            split(line, field, "\t")
            result[module[m], field[1]] = field[2]
            seconds[module[m], field[1]] = field[3]
            reason[module[m], field[1]] = field[4]
            if (field[1] == "kernel log")
                extra = 1
        }
    }
}

FILENAME == ARGV[1] {
    out[++outs] = $1
    why[$1] = $2
    next
}
{
    split($0, field, " ")
    name[++names] = field[1]
}

function quoted(text) {
    gsub(/[\\"]/, "\\\\&", text)
    gsub(/[[:cntrl:]]/, " ", text)
    return "\"" text "\""
}

# passed, failed, or - where nothing is to be said.
function judge(test,    ours, theirs) {
    if (count == 1) {
        ours = result[module[1], test]
        return ours == "pass" ? "passed" : ours == "skip" ? "-" : "failed"
    }
    ours = result["ours", test]
    theirs = result["kernel", test]
    if (ours == "pass")
        return "passed"
    return theirs == "pass" || (theirs == "skip" && ours != "skip") ? "failed" : "-"
}

function told(m, test,    text) {
    text = result[m, test]
    return text == "" ? "not run" : text
}

END {
    if (extra)
        name[++names] = "kernel log"
    if (format == "json")
        printf "{\"tests\":["
    for (i = 1; i <= names; i++) {
        test = name[i]
        verdict = judge(test)
        passed += verdict == "passed"
        failed += verdict == "failed"
        if (format == "json") {
            printf "%s\n{\"name\":%s,\"verdict\":%s", (i > 1 ? "," : ""), quoted(test), quoted(verdict)
            for (m = 1; m <= count; m++)
                printf ",\"%s\":{\"result\":%s,\"seconds\":%s,\"reason\":%s}", module[m],
                    quoted(told(module[m], test)), seconds[module[m], test] + 0,
                    quoted(reason[module[m], test])
            printf "}"
            continue
        }
        if (i == 1) {
            printf "%-44s", "test"
            for (m = 1; m <= count; m++)
                printf " %-16s", module[m]
            print " verdict"
        }
        printf "%-44s", test
        note = ""
        for (m = 1; m <= count; m++) {
            text = told(module[m], test)
            printf " %-8s%6.1fs ", text, seconds[module[m], test]
            said = reason[module[m], test]
            if (said != "" && index(note, said) == 0)
                note = note (note == "" ? "" : " | ") (count > 1 ? module[m] ": " : "") said
        }
        print " " (verdict == "failed" ? "FAILED" : verdict) (note == "" ? "" : "  " note)
    }
    if (format == "json") {
        for (i = 1; i <= outs; i++)
            printf "%s\n{\"name\":%s,\"verdict\":\"out of scope\",\"reason\":%s}",
                names + (i > 1 ? "," : ""), quoted(out[i]), quoted(why[out[i]])
        printf "\n],\"passed\":%d,\"failed\":%d}\n", passed, failed
    } else {
        for (i = 1; i <= outs; i++)
            printf "%-44s out of scope: %s\n", out[i], why[out[i]]
        printf "%d passed, %d failed\n", passed, failed
    }
    exit failed > 0
}

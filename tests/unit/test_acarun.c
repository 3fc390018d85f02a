/* What acarun makes of code and tool calls. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

#include "acarun/sanitize.h"

static void sanitize_follows_the_rule(void **state)
{
    static const struct {
        const char *code, *want;
    } cases[] = {
        {"print(1)", "print(1)"},
        {"", ""},
        {" \t\n", ""},
        {"```", ""},
        {"``` `\n`", ""},
        {"```python\nprint(1)\n```", "print(1)"},
        {"```\nprint(1)\n```\n", "print(1)"},
        {"```PyThOn  x = 1```", "x = 1"},
        {"python\n1 + 1", "1 + 1"},
        {"`1 + 1`", "1 + 1"},
        {"python", ""},
        {"python```", ""},
        {"python`x", "`x"}, /* after the word only white space goes */
        {"```python3\nx", "python3\nx"},
        {"python_code = 1", "python_code = 1"},
        {"pythonic()", "pythonic()"},
        {"python(1)", "python(1)"},
        {"python python x", "python x"}, /* one word */
        {"pytho", "pytho"},
        {"if a:\n    b\n", "if a:\n    b"},
        {"    a\n    b", "a\n    b"},
        {"print('`')", "print('`')"},
        {"\u00a0\u2003```python\u3000x\u2028", "x"},
        {"\x1cx\x1f\x0b\x0c", "x"},
        {"x\u00e9", "x\u00e9"},
        {"x\xc2", "x\xc2"}, /* half a character is none */
        {"\xe2\x80", "\xe2\x80"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *code = strdup(cases[i].code);
        sanitize_code(code);
        assert_string_equal(code, cases[i].want);
        free(code);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sanitize_follows_the_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

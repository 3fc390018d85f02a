/* Code as language models write it: often in a Markdown fence. */
#ifndef ACAFS_ACARUN_SANITIZE_H
#define ACAFS_ACARUN_SANITIZE_H

/* Strips, in place, leading white space and backticks, then one word "python" in any case that
 * white space, a backtick or the end follows, then white space; and trailing white space and
 * backticks. As sanitize_input of the Python client does, but a name that begins with "python"
 * stays whole. */
void sanitize_code(char *code);

#endif

/* `acafs login-check [POOL]`: what each credential says, whose token was got, and whether the pool
 * lets its holder in. */
#ifndef ACAFS_ACAFS_LOGIN_CHECK_H
#define ACAFS_ACAFS_LOGIN_CHECK_H

/* Takes its own argv and returns the exit code: 0 let in, 77 no token or not let in, 69 pool
 * unreachable, 64 and 78 bad usage and settings. */
int login_check(int argc, char **argv);

#endif

"""Does the ranking predict the student?"""

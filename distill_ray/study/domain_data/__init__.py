"""Which text is worth distilling on?"""
